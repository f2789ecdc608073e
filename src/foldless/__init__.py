"""foldless: register medical images with learned maps that do not fold.

    phi_AB = registration(image_A, image_B)        image_A ∘ phi_AB ≈ image_B

The public names are listed in `__init__.pyi`; a module is imported when one of its names is first used.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
