"""Commands that run a plant: servers, serving and drift."""
