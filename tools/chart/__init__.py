"""What stands in deploy/helm/burnish because it stands elsewhere, and what its profiles come to."""
