"""Identity, trust and tamper evidence: who takes part in a consortium, and how each party can tell.

Pure domain: no network, no protocol buffers, no clock. Every function that depends on the time takes it as `now`, an
aware datetime. Byte formats are normative in SPEC.md; what all of this withstands, and what not, is in THREAT_MODEL.md.
"""
