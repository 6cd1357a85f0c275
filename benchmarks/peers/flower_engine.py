"""Flower with its simulation engine (Ray, two workers of one thread): messages of arrays, averaged in the server app."""

from __future__ import annotations

import os

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

WORKERS = 2
app, server = ClientApp(), ServerApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Local SGD of one client; torch and the data are loaded once per worker."""
    from torch_loop import client

    where = message.content["where"]
    values = message.content["arrays"].to_numpy_ndarrays()
    new = client(values, int(where["round"]), int(where["client"]))
    return Message(RecordDict({"arrays": ArrayRecord([v.copy() for v in new])}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    import time

    from common import CLIENTS, ROUNDS, START, Report

    report, values = Report(), START
    while len(nodes := list(grid.get_node_ids())) < CLIENTS:
        time.sleep(0.1)
    for r in range(ROUNDS):
        messages = []
        for k, node in enumerate(nodes):
            content = RecordDict({"arrays": ArrayRecord([np.asarray(v) for v in values]), "where": ConfigRecord({"round": r, "client": k})})
            messages.append(Message(content, dst_node_id=node, message_type="train"))
        replies = list(grid.send_and_receive(messages))
        assert len(replies) == CLIENTS
        arrays = [reply.content["arrays"].to_numpy_ndarrays() for reply in replies]
        values = [np.mean([a[i] for a in arrays], axis=0, dtype=np.float64).astype(np.float32) for i in range(4)]
        report.round()
    report.end(values, "peak memory of the driver alone")


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))
    from common import CLIENTS

    run_simulation(
        server, app, num_supernodes=CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": WORKERS}},
    )  # fmt: skip
