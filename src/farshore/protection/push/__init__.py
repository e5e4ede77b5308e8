"""Push installation: the mobility service brought to a machine over SSH, with nothing needed there but Python.

``install.PushInstaller`` is a protection.installation.Installer. survey.py looks at the machine, bundle.py makes what
fits it, install.py brings it there, enrols and starts it; ssh.py holds what is particular to SSH. Nothing is imported
here: bundle.py and signing.py are used without SSH, whose library takes 0.2 s of a program's start.
"""
