"""The Meta-World tasks: how each is shown, and what it is called in words.

Every task is here that Meta-World's scripted expert solves at least nine times in ten within 120
commands at 20 Hz (10 seeds; 50 where it failed once or twice). Left out, with the share solved:
bin-picking 3/10, hammer 36/50, handle-pull-side 4/10, lever-pull 36/50, shelf-place 43/50, soccer
39/50, stick-pull 7/10 and sweep-into 41/50. Meta-World ships no instruction strings, so we wrote
these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from streamvla.robots.instructions import Phrasings

Colour = tuple[float, float, float, float]
GREEN: Colour = (0.0, 1.0, 0.0, 1.0)
BLUE: Colour = (0.1, 0.3, 1.0, 1.0)
HIDDEN: Colour = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class MetaWorldTask:
    """One task.

    Attributes:
        name: our name; Meta-World's is `name-v3`.
        phrasings: what it is called in words.
        goal_marker: the site to show as a green ball of 3 cm radius, where the goal is. Stock
            Meta-World shows it 2 cm small and red like the arm: two pixels. None where the scene
            itself says what to do (a drawer, a button).
        recolour: geom name → colour of its whole body, for objects that do not stand out from the
            table (brown or dark red on brown in 96 pixels).
    """

    name: str
    phrasings: Phrasings
    goal_marker: str | None = None
    recolour: Mapping[str, Colour] = field(default_factory=dict)

    @property
    def environment(self) -> str:
        """Meta-World's name."""
        return f"{self.name}-v3"


TASKS: dict[str, MetaWorldTask] = {
    task.name: task
    for task in (
        MetaWorldTask(
            "reach",
            Phrasings(
                (
                    "reach the green ball",
                    "move the gripper to the green marker",
                    "bring the hand to the green target",
                    "go to the green sphere",
                ),
                (
                    "touch the green ball",
                    "put the gripper at the green goal",
                ),
            ),
            goal_marker="goal",
        ),
        MetaWorldTask(
            "push",
            Phrasings(
                (
                    "push the blue puck to the green marker",
                    "slide the blue puck onto the green target",
                    "move the puck to the green goal",
                    "bring the blue object to the green ball",
                ),
                (
                    "shove the blue puck to the green spot",
                    "get the puck to the green target",
                ),
            ),
            goal_marker="goal",
            recolour={"objGeom": BLUE},
        ),
        MetaWorldTask(
            "button-press-topdown",
            Phrasings(
                (
                    "press the red button from above",
                    "push the button down",
                    "press down the red button on the box",
                    "go above the button and press it",
                ),
                (
                    "hit the red button from the top",
                    "lower the hand onto the button",
                ),
            ),
        ),
        MetaWorldTask(
            "drawer-open",
            Phrasings(
                (
                    "open the drawer",
                    "pull the drawer open",
                    "pull the handle to open the green drawer",
                    "slide the drawer out",
                ),
                (
                    "get the drawer open",
                    "draw the drawer out by its handle",
                ),
            ),
        ),
        MetaWorldTask(
            "drawer-close",
            Phrasings(
                (
                    "close the drawer",
                    "push the drawer shut",
                    "shut the green drawer",
                    "slide the drawer in",
                ),
                (
                    "get the drawer closed",
                    "push the drawer back in",
                ),
            ),
        ),
        MetaWorldTask(
            "window-open",
            Phrasings(
                (
                    "open the window",
                    "slide the window open",
                    "push the window handle to the right to open it",
                    "move the window pane open",
                ),
                (
                    "get the window open",
                    "slide open the window by its handle",
                ),
            ),
        ),
        MetaWorldTask(
            "window-close",
            Phrasings(
                (
                    "close the window",
                    "slide the window shut",
                    "push the window handle to the left to close it",
                    "move the window pane closed",
                ),
                (
                    "get the window closed",
                    "shut the window by its handle",
                ),
            ),
        ),
        MetaWorldTask(
            "button-press",
            Phrasings(
                (
                    "press the red button on the front of the box",
                    "push the button in",
                    "press the button from the front",
                    "move forward and press the red button",
                ),
                (
                    "hit the button facing you",
                    "push in the red button",
                ),
            ),
        ),
        MetaWorldTask(
            "door-open",
            Phrasings(
                (
                    "open the door",
                    "pull the door open",
                    "pull the door by its handle",
                    "swing the door open",
                ),
                (
                    "get the door open",
                    "draw the door open by the handle",
                ),
            ),
        ),
        MetaWorldTask(
            "door-close",
            Phrasings(
                (
                    "close the door",
                    "push the door shut",
                    "shut the door",
                    "swing the door closed",
                ),
                (
                    "get the door closed",
                    "push the door until it shuts",
                ),
            ),
        ),
        MetaWorldTask(
            "faucet-open",
            Phrasings(
                (
                    "open the faucet",
                    "turn the faucet on",
                    "turn the tap handle to open it",
                    "rotate the faucet to the open side",
                ),
                (
                    "get the water running",
                    "twist the tap open",
                ),
            ),
        ),
        MetaWorldTask(
            "faucet-close",
            Phrasings(
                (
                    "close the faucet",
                    "turn the faucet off",
                    "turn the tap handle to close it",
                    "rotate the faucet to the closed side",
                ),
                (
                    "stop the water",
                    "twist the tap shut",
                ),
            ),
        ),
        MetaWorldTask(
            "plate-slide",
            Phrasings(
                (
                    "slide the plate into the net",
                    "push the black plate into the goal",
                    "slide the disc forward into the net",
                    "move the plate inside the goal",
                ),
                (
                    "get the plate into the net",
                    "shove the disc in",
                ),
            ),
        ),
        MetaWorldTask(
            "handle-press",
            Phrasings(
                (
                    "press the handle down",
                    "push down the handle",
                    "press the red lever down",
                    "lower the handle",
                ),
                (
                    "get the handle down",
                    "push the lever to the bottom",
                ),
            ),
        ),
        MetaWorldTask(
            "coffee-button",
            Phrasings(
                (
                    "press the button of the coffee machine",
                    "start the coffee machine",
                    "push the coffee button",
                    "press the coffee maker button",
                ),
                (
                    "make some coffee",
                    "turn the coffee machine on",
                ),
            ),
        ),
        MetaWorldTask(
            "assembly",
            Phrasings(
                (
                    "put the ring on the peg",
                    "place the round nut over the red peg",
                    "pick up the green handle and fit the ring on the peg",
                    "assemble the ring and the peg",
                ),
                (
                    "get the ring onto the peg",
                    "thread the peg through the ring",
                ),
            ),
        ),
        MetaWorldTask(
            "basketball",
            Phrasings(
                (
                    "put the ball in the basket",
                    "dunk the orange basketball",
                    "pick up the basketball and drop it through the hoop",
                    "bring the orange ball to the red hoop",
                ),
                (
                    "score a basket",
                    "get the basketball into the hoop",
                ),
            ),
        ),
        MetaWorldTask(
            "box-close",
            Phrasings(
                (
                    "close the box with its lid",
                    "put the lid on the box",
                    "pick up the lid by its handle and cover the box",
                    "place the cover on the wooden box",
                ),
                (
                    "get the lid onto the box",
                    "shut the box with the cover",
                ),
            ),
        ),
        MetaWorldTask(
            "button-press-topdown-wall",
            Phrasings(
                (
                    "press the red button behind the wall from above",
                    "go over the wall and push the button down",
                    "press down the button beyond the wall",
                    "pass above the wall and press the red button",
                ),
                (
                    "hit the button behind the wall from the top",
                    "lower the hand onto the button past the wall",
                ),
            ),
        ),
        MetaWorldTask(
            "button-press-wall",
            Phrasings(
                (
                    "press the front button behind the wall",
                    "go over the wall and push the button in",
                    "pass the wall and press the red button forward",
                    "push the button beyond the wall from the front",
                ),
                (
                    "hit the front button past the wall",
                    "get over the wall and push in the button",
                ),
            ),
        ),
        MetaWorldTask(
            "coffee-pull",
            Phrasings(
                (
                    "pull the mug away from the coffee machine",
                    "take the mug to the green marker",
                    "drag the white mug from the coffee machine to the green target",
                    "move the coffee mug to the green ball",
                ),
                (
                    "get the mug away from the machine",
                    "bring the white mug to the green spot",
                ),
            ),
            goal_marker="mug_goal",
        ),
        MetaWorldTask(
            "coffee-push",
            Phrasings(
                (
                    "push the mug under the coffee machine",
                    "place the mug at the coffee machine",
                    "move the white mug to the coffee machine",
                    "slide the mug below the coffee spout",
                ),
                (
                    "get the mug to the machine",
                    "shove the white mug under the spout",
                ),
            ),
        ),
        MetaWorldTask(
            "dial-turn",
            Phrasings(
                (
                    "turn the dial",
                    "rotate the dial",
                    "turn the black knob on the table",
                    "twist the dial round",
                ),
                (
                    "get the dial turned",
                    "spin the dial",
                ),
            ),
        ),
        MetaWorldTask(
            "disassemble",
            Phrasings(
                (
                    "take the ring off the peg",
                    "lift the round nut from the red peg",
                    "pull the ring up by its green handle",
                    "disassemble the ring and the peg",
                ),
                (
                    "get the ring off the peg",
                    "remove the ring from the peg",
                ),
            ),
        ),
        MetaWorldTask(
            "door-lock",
            Phrasings(
                (
                    "lock the door",
                    "turn the lock down",
                    "rotate the lock to lock the door",
                    "turn the door lock to the locked side",
                ),
                (
                    "get the door locked",
                    "twist the lock shut",
                ),
            ),
        ),
        MetaWorldTask(
            "door-unlock",
            Phrasings(
                (
                    "unlock the door",
                    "turn the lock back",
                    "rotate the lock to unlock the door",
                    "turn the door lock to the unlocked side",
                ),
                (
                    "get the door unlocked",
                    "twist the lock open",
                ),
            ),
        ),
        MetaWorldTask(
            "hand-insert",
            Phrasings(
                (
                    "put the block into the hole",
                    "carry the blue block to the hole",
                    "lower the blue block into the hole of the table",
                    "insert the hand with the block into the hole",
                ),
                (
                    "get the block into the hole",
                    "drop the blue block down the hole",
                ),
            ),
            goal_marker="goal",
            recolour={"objGeom": BLUE},
        ),
        MetaWorldTask(
            "handle-press-side",
            Phrasings(
                (
                    "press the handle down from the side",
                    "push down the sideways handle",
                    "press the red lever at the side down",
                    "lower the handle that points sideways",
                ),
                (
                    "get the sideways handle down",
                    "push the side lever to the bottom",
                ),
            ),
        ),
        MetaWorldTask(
            "handle-pull",
            Phrasings(
                (
                    "pull the handle up",
                    "lift the handle",
                    "pull the red lever up",
                    "raise the handle",
                ),
                (
                    "get the handle up",
                    "lift the lever to the top",
                ),
            ),
        ),
        MetaWorldTask(
            "peg-insert-side",
            Phrasings(
                (
                    "insert the peg into the hole at the side",
                    "put the green peg into the red box",
                    "pick up the peg and push it into the hole",
                    "plug the green stick into the box from the side",
                ),
                (
                    "get the peg into the side of the box",
                    "stick the green peg in",
                ),
            ),
        ),
        MetaWorldTask(
            "peg-unplug-side",
            Phrasings(
                (
                    "unplug the peg",
                    "pull the peg out of the wall",
                    "pull the plug out sideways",
                    "take the grey peg out of the socket",
                ),
                (
                    "get the peg out",
                    "remove the plug from its socket",
                ),
            ),
        ),
        MetaWorldTask(
            "pick-out-of-hole",
            Phrasings(
                (
                    "pick the puck out of the hole",
                    "lift the red puck from the hole to the green marker",
                    "take the red object out of the hole",
                    "bring the puck up from the hole to the green ball",
                ),
                (
                    "get the puck out of the hole",
                    "fetch the red object from the hole",
                ),
            ),
            goal_marker="goal",
        ),
        MetaWorldTask(
            "pick-place",
            Phrasings(
                (
                    "pick up the puck and place it at the green marker",
                    "lift the blue puck to the green target",
                    "carry the puck to the green goal",
                    "pick the blue object and hold it at the green ball",
                ),
                (
                    "grab the blue puck and bring it to the green spot",
                    "take the puck up to the green target",
                ),
            ),
            goal_marker="goal",
            recolour={"objGeom": BLUE},
        ),
        MetaWorldTask(
            "pick-place-wall",
            Phrasings(
                (
                    "pick up the puck and carry it over the wall to the green marker",
                    "lift the blue puck over the wall",
                    "bring the puck past the wall to the green goal",
                    "carry the blue object above the wall to the green ball",
                ),
                (
                    "grab the puck and take it over the wall",
                    "get the blue puck beyond the wall to the green spot",
                ),
            ),
            goal_marker="goal",
            recolour={"objGeom": BLUE},
        ),
        MetaWorldTask(
            "plate-slide-back",
            Phrasings(
                (
                    "slide the plate out of the net",
                    "pull the black plate back from the goal",
                    "slide the disc backward out of the net",
                    "move the plate back towards the robot",
                ),
                (
                    "get the plate out of the net",
                    "drag the disc back",
                ),
            ),
        ),
        MetaWorldTask(
            "plate-slide-back-side",
            Phrasings(
                (
                    "slide the plate out of the net at the side",
                    "pull the black plate sideways from the goal",
                    "slide the disc sideways out of the net",
                    "move the plate away from the side goal",
                ),
                (
                    "get the plate out of the side net",
                    "drag the disc sideways",
                ),
            ),
        ),
        MetaWorldTask(
            "plate-slide-side",
            Phrasings(
                (
                    "slide the plate into the net at the side",
                    "push the black plate sideways into the goal",
                    "slide the disc sideways into the net",
                    "move the plate into the side goal",
                ),
                (
                    "get the plate into the side net",
                    "shove the disc in sideways",
                ),
            ),
        ),
        MetaWorldTask(
            "push-back",
            Phrasings(
                (
                    "push the block back to the green marker",
                    "pull the blue block towards the robot",
                    "slide the block back onto the green target",
                    "drag the blue block back to the green ball",
                ),
                (
                    "get the block back to the green spot",
                    "bring the blue block near the robot",
                ),
            ),
            goal_marker="goal",
            recolour={"objGeom": BLUE},
        ),
        MetaWorldTask(
            "push-wall",
            Phrasings(
                (
                    "push the puck past the wall to the green marker",
                    "slide the blue puck around the wall",
                    "move the puck behind the wall to the green goal",
                    "push the blue object around the wall to the green ball",
                ),
                (
                    "shove the puck past the wall",
                    "get the blue puck around the wall to the green spot",
                ),
            ),
            goal_marker="goal",
            recolour={"objGeom": BLUE},
        ),
        MetaWorldTask(
            "reach-wall",
            Phrasings(
                (
                    "reach the green ball behind the wall",
                    "move the gripper over the wall to the green marker",
                    "bring the hand past the wall to the green target",
                    "go over the wall to the green sphere",
                ),
                (
                    "touch the green ball beyond the wall",
                    "put the gripper at the goal past the wall",
                ),
            ),
            goal_marker="goal",
        ),
        MetaWorldTask(
            "stick-push",
            Phrasings(
                (
                    "push the thermos with the stick",
                    "pick up the blue stick and push the bottle",
                    "use the stick to push the thermos",
                    "grasp the stick and move the flask with it",
                ),
                (
                    "shove the thermos by means of the stick",
                    "get the bottle moved with the blue stick",
                ),
            ),
        ),
        MetaWorldTask(
            "sweep",
            Phrasings(
                (
                    "sweep the block off the table",
                    "push the blue block off to the right",
                    "slide the block to the right edge of the table",
                    "sweep the blue block to the side",
                ),
                (
                    "get the block off the table",
                    "brush the blue block away to the right",
                ),
            ),
            recolour={"objGeom": BLUE},
        ),
    )
}
