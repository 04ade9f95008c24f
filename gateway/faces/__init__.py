"""Wire protocols towards our clients; siblings over the same `screening`, none knows another."""
