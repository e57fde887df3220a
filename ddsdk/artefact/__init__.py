"""The artefact: a distilled set as files, with their checks, dataset card, contact sheet, report and exports."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
