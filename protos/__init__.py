"""Protocol of the federation: schema, generated code, and a total codec between messages and domain objects."""
