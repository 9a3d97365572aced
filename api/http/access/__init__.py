"""Who may call which route: rules, the check of a request, hosts and origins, addresses, the browser's cookie."""
