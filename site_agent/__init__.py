"""The agent of a hospital: enrolment, rounds, and the trainer beside it."""
