"""Push installation: bring the mobility service to a machine over SSH; the machine only needs Python.

``install.PushInstaller`` is a protection.installation.Installer. survey.py examines the machine, bundle.py builds a
fitting bundle, install.py copies it there, enrols and starts it; ssh.py contains everything specific to SSH. Nothing is
imported here: bundle.py and signing.py are used without SSH, whose library takes 0.2 s to load.
"""
