"""Push installation: the mobility service brought to a machine over SSH, with nothing needed there but Python.

``install`` is a protection.installation.Installer. survey.py looks at the machine, bundle.py makes what fits it,
install.py brings it there, enrols and starts it; ssh.py holds what is particular to SSH.
"""

from farshore.protection.push.install import PushInstaller

__all__ = ["PushInstaller"]
