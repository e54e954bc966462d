"""What an encoder is worth to control: actions read out of what it sees, without an agent."""
