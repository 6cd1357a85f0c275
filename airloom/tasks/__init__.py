"""What is learned, from whose data, and how it is measured."""

from airloom.tasks.datasets import Dataset, load, load_text
from airloom.tasks.settings import TaskSettings, default_model, make_task
from airloom.tasks.stream import Stream
from airloom.tasks.task import DeviceData, Task

__all__ = ["Dataset", "DeviceData", "Stream", "Task", "TaskSettings", "default_model", "load", "load_text", "make_task"]
