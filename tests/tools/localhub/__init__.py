"""A model and dataset Hub on 127.0.0.1: git, LFS, pull requests, permissions and faults over real HTTP.

``tests/hub/server.py`` starts it as a process of its own. One module a noun:

====================  ==========================================================
``git``               bare repositories through the git command
``attributes``        which files are LFS files, and which are binary
``lfs``               large objects, pointers and signed addresses
``repos``             users, repositories and who may do what
``answers``           what a request holds, what an answer holds, refusals
``routes``            from method and raw path to an endpoint
``accounts``, ``reads``, ``downloads``, ``uploads``, ``commits``, ``discussions``
                      the endpoints
``faults``            what goes wrong on purpose, and the log of requests
``wire``              the two ports: reads requests, applies faults, sends answers
====================  ==========================================================
"""
