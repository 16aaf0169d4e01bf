"""What stands between callers and the server: keys, bounds, the policy, TLS, what licences ask, how errors are told."""
