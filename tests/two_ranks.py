"Two processes that train together, as tests start them."

import socket

import torch
import torch.multiprocessing as mp


def found_by_two_ranks(player, folder) -> list[dict]:
    "What `player(rank, port, folder)` writes into `folder`/RANK.pt in each of two processes."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(player, (port, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
