"""``make appliance``: builds the server appliance, a machine image with a whole Farshore installation, from a clone.

``tree.py`` makes the root file system (Debian, our wheel, our units), ``disk.py`` the bootable disk, ``envelope.py``
the OVF around it and ``archive.py`` the OVA; ``validation.py`` holds an envelope to the rules that an import has. The
questions at the first boot are asked by ``farshore.cli.console``, which the image contains.
"""
