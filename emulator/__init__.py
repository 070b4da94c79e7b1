"""The computer: CPU, memory, instruction counting, and a Linux for user programs."""
