"""Generated code of protocol version 1."""
