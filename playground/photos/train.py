"""The trainer on a CPU: LLaVA's, with attention's plain formula, a quarter faster over these short bf16 sequences."""

from llava.train.train import main

if __name__ == "__main__":
    main("eager")
