"""Runs that are killed, resumed, damaged."""
import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from softvq_lab.runs import Run, read_metrics
from softvq_lab.training.checkpoint import newest_checkpoint, steps_of

TRAIN = '''
import sys
from dataclasses import asdict
from softvq_lab.config import TrainConfig, parse
from softvq_lab.data import digits
from softvq_lab.runs import open_run
from softvq_lab.training.loop import fit
from softvq_lab.training.tokenizer_task import TokenizerTask
c = parse(TrainConfig, dict(tokens=4, steps=40, batch_size=16, warmup_steps=4, checkpoint_every=4, log_every=1, eval_every=20, resume=True, run=sys.argv[1]))
run = open_run(c.where.run, 'tokenizer', asdict(c), resume=True)
fit(TokenizerTask(c.tokenizer, digits(32), run), run, c.optim, resume=True)
'''


def train(folder, kill_when=None):
    "Train in a process of its own; SIGKILL it as soon as `kill_when(run)` holds."
    p = subprocess.Popen([sys.executable, '-c', TRAIN, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.time() + 120
    while p.poll() is None:
        if kill_when and kill_when(Run(folder)):
            os.kill(p.pid, signal.SIGKILL)
            break
        assert time.time() < deadline, 'training hangs'
        time.sleep(0.002)
    out = p.communicate()[0]
    assert kill_when or p.returncode == 0, out
    return p.returncode


def last(folder): return load_file(newest_checkpoint(folder/'checkpoints')/'raw.safetensors'), load_file(newest_checkpoint(folder/'checkpoints')/'model.safetensors')


def same(a, b): return all(x.keys() == y.keys() and all(x[k].equal(y[k]) for k in x) for x, y in zip(a, b))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole')/'run'
    train(folder)
    return folder


def test_sigkill_and_resume_end_in_the_same_bits(whole, tmp_path):
    folder = tmp_path/'run'
    kills = [lambda r: len(read_metrics(r)) >= 7,  # in mid-training
             lambda r: any(r.checkpoints.glob('.aside-*')) and len(read_metrics(r)) >= 16]  # while a checkpoint is written
    for when in kills:
        assert train(folder, when) == -signal.SIGKILL
        assert Run(folder).status['state'] == 'interrupted'
    train(folder)
    assert same(last(folder), last(whole)) and Run(folder).status['state'] == 'done'
    assert [m['step'] for m in read_metrics(Run(folder))] == [m['step'] for m in read_metrics(Run(whole))]


def test_a_truncated_checkpoint_costs_only_time(whole, tmp_path):
    folder = tmp_path/'run'
    train(folder, lambda r: len(steps_of(r.checkpoints)) == 2)
    with open(steps_of(folder/'checkpoints')[-1]/'optimizer.safetensors', 'r+b') as f: f.truncate(100)
    with pytest.warns(UserWarning, match='is damaged .optimizer.safetensors'): newest_checkpoint(folder/'checkpoints')
    train(folder)
    assert same(last(folder), last(whole))


def test_nothing_is_left_behind(whole): assert sorted(p.name for p in (whole/'checkpoints').iterdir()) == ['step-000036', 'step-000040']


def test_nan_stops_the_run_and_says_so(tmp_path):
    import torch

    from softvq_lab.config import OptimConfig
    from softvq_lab.runs import open_run
    from softvq_lab.training.loop import Task, fit

    class Bad(Task):
        def __init__(self):
            super().__init__()
            self.model, self.data = torch.nn.Linear(1, 1), torch.utils.data.TensorDataset(torch.ones(8, 1))

        def forward(self, batch): return {'loss': self.model(batch[0]).mean() * float('nan')}

    run = open_run(tmp_path/'r', 'toy', {})
    with pytest.raises(FloatingPointError, match='the loss is nan at step 2'): fit(Bad(), run, OptimConfig(steps=9, warmup_steps=1, batch_size=4, log_every=2))
    assert run.status['state'] == 'failed' and 'nan' in run.status['error']
