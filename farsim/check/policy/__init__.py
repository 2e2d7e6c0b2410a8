"""The conformance kit for servers of policies: ``farsim check --policy``."""
