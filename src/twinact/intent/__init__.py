"""Reads the pose that a model means by a prompt before it has drawn a picture."""

from twinact.intent.intended_pose import EarlyPose, HeadPose, IntendedPose, PoseTarget, degrees, intended_pose
from twinact.intent.meant import Meant

__all__ = ["EarlyPose", "HeadPose", "IntendedPose", "Meant", "PoseTarget", "degrees", "intended_pose"]
