"""The campaign: the service as it runs for real, under load, one fault after another, and an oracle over it all."""
