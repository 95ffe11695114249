"""Two arms: gym-aloha's model as a robot with tempo tasks."""
