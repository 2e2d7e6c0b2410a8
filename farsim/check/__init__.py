"""The conformance kit: whether a server, in whatever language, keeps ``farsim.v1``'s promises."""
