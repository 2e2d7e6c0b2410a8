"""The worker side: simulators, and the server that offers them over gRPC."""
