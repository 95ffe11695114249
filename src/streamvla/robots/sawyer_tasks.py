"""Every task of the Sawyer arm as one suite: one specification, so one policy drives them all."""

from __future__ import annotations

from streamvla.robots.metaworld.suite import METAWORLD
from streamvla.robots.suite import join
from streamvla.robots.tabletop.suite import LANGUAGE

ALL = join("all", METAWORLD, LANGUAGE)
