"""What a page asks the server, without a browser: events of components, with values of others."""

import json
import uuid

import httpx


class Visitor:
    "One open page. `ask` raises an event and returns what the server answers last."

    def __init__(self, url: str):
        self.http = httpx.Client(base_url=url, timeout=120, trust_env=False)
        self.session = uuid.uuid4().hex
        config = self.http.get("config").json()
        self.components = {c["id"]: c for c in config["components"]}
        self.names = {c["props"].get("elem_id"): i for i, c in self.components.items()}
        self.events = {
            tuple(target): d for d in config["dependencies"] for target in d["targets"] if target
        }
        self.functions = {d["api_name"]: d for d in config["dependencies"] if d["api_name"]}

    def ask(self, elem_id: str, event: str, **values) -> list:
        """The outputs after `event` of a component; `values` by the ids of components with '_' for
        '-', all others have the values of a new page.
        """
        return self.answer(self.events[self.names[elem_id], event], values)

    def call(self, name: str, **values) -> list:
        "Likewise, of a function that programs can call by `name`."
        return self.answer(self.functions[name], values)

    def answer(self, dependency: dict, values: dict) -> list:
        given = {self.names[n.replace("_", "-")]: v for n, v in values.items()}
        data = [given.get(i, self.usual(i)) for i in dependency["inputs"]]
        body = {"data": data, "fn_index": dependency["id"], "session_hash": self.session}
        self.http.post("gradio_api/queue/join", json=body).raise_for_status()
        query = {"session_hash": self.session}
        with self.http.stream("GET", "gradio_api/queue/data", params=query) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line else {}
                if message.get("msg") == "process_completed":
                    assert message["success"], message["output"]
                    return message["output"]["data"]
        raise AssertionError("the server ended without an answer")

    def usual(self, number: int):
        return self.components[number]["props"].get("value")

    def upload(self, data: bytes) -> dict:
        "A file, as a component takes it."
        sent = self.http.post("gradio_api/upload", files={"files": ("mine.png", data)})
        return {"path": sent.raise_for_status().json()[0], "meta": {"_type": "gradio.FileData"}}

    def close(self):
        self.http.close()
