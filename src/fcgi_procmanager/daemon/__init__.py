"""Programs that are daemons, and those that a supervisor keeps running and replaces by their new code.

After App::Base::Daemon and App::Base::Daemon::Supervisor 0.08.

                 serving supervisor ──────── handover.py ── line ── takeover.py ──────── new supervisor
                  keeper.py                                                               keeper.py
                  supervised.py                                                           supervised.py
                     │ line, lifeline                                                        │ line, lifeline
                  supervised process (workerhalf.py)                                      its supervised process
"""
