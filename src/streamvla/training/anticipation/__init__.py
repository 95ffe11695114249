"""Training of what lets a policy look early: saliency, its gate, its errors."""
