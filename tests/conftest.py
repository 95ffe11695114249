"""Settings of the whole suite."""

import signal

from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

# nohup and a shell's `&` hand down ignored signals, which would stay ignored in what is tested
signal.signal(signal.SIGINT, signal.default_int_handler)
for each in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(each, signal.SIG_DFL)
