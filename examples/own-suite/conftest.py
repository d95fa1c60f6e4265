pytest_plugins = ["invarlock.harness.plugin"]
