"""The site's part of secure aggregation: what is durable before each answer, the masked file, and what was spent.

The rules are `security.secagg`'s (SPEC 10); here is the disk around them.
"""
