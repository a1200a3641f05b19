"""FedMEPD: federated segmentation across hospitals that own different imaging modalities.

Importing this package imports nothing heavy: torch and MONAI are loaded by the modules that compute with them.
"""

__version__ = "0.1.0"
