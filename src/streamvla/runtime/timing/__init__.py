"""How long stages take: models of latency, and estimates."""
