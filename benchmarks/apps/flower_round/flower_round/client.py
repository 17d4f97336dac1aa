"""The ClientApp: adds 0.01 to every element (with `distinct`, each member a little more than the last)."""

import time

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    started = time.time()
    step = np.float32(0.01)
    if message.content["config"]["distinct"]:
        step += np.float32(1e-4) * np.float32(context.node_config["partition-id"])
    arrays = [a + step for a in message.content["arrays"].to_numpy_ndarrays()]
    record = ArrayRecord(arrays)
    metrics = MetricRecord({"num-examples": 10, "seconds": time.time() - started})
    return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)
