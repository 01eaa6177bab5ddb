"""Runs programs that nobody vouches for, confined by the kernel. A package of its own: it knows nothing of mmalign.

sandbox        run a program within limits, and say what it could do on this machine
confine        the first process of a program: Landlock, seccomp, limits
system_calls   the calls that seccomp allows, by machine
remove         delete a folder that a program filled
"""
