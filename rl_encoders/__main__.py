from rl_encoders.cli import main

main()
