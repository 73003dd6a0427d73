"""The simulated charger, meter and network that the demo and the tests use."""
