"""What is learned, from whose data, and how it is measured."""

from airloom.tasks.datasets import Dataset, load
from airloom.tasks.settings import TaskSettings, default_model, make_task
from airloom.tasks.stream import Stream
from airloom.tasks.task import DeviceData, Task

__all__ = ["Dataset", "DeviceData", "Stream", "Task", "TaskSettings", "default_model", "load", "make_task"]
