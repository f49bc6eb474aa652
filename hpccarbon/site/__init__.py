"""From shards to ledger, anywhere the shards can be read. Never touches a sensor."""
