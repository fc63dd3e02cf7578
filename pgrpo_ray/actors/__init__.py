"""The only Ray code beside the driver: roles (plain classes that join the parts), spawning them, waiting for them."""
