"""Networks, container groups and training jobs on Azure, through Azure's own SDKs."""
