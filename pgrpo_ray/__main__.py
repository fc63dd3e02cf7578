"""`python -m pgrpo_ray` is `pgrpo`, with the package of the folder that it is called in: what a Ray job uploads."""

from pgrpo_ray.cli import main

if __name__ == "__main__":
    main()
