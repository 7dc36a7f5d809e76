"""Stand-ins of real CRMs: one strict server per CRM, for the tests, for presets, and to try things by hand.

Each file but `base.py` is one CRM and has `STAND_IN`, its class. They know only the rules that the vendor
states or whose code shows them; each rule names its source, and what is not confirmed says so.
"""
