"""Ways of running a bot: as a process of this machine here, as a container or a Swarm service later."""
