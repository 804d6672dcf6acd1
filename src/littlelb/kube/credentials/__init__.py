"""Proves to the API server who we are: service account, kubeconfig, client certificates, exec plugins."""
