"""Jobs: real papermill processes on tiny runs, and the command line that serves them."""
import os
import subprocess
import sys
import time

import psutil
import pytest

from softvq_lab.core import write_json
from softvq_lab.runs import Run, figures
from softvq_lab.strict import ConfigError
from softvq_lab.training.checkpoint import steps_of
from softvq_lab.workbench.jobs import Job, cancel, family, identify, jobs, start

LONG = dict(tokens=4, steps=100_000, warmup_steps=2, batch_size=8, log_every=2, eval_every=100_000, checkpoint_every=100_000)


def wait_for(true, seconds: float, what: str):
    until = time.time() + seconds
    while not (found := true()):
        assert time.time() < until, what() if callable(what) else what
        time.sleep(0.3)
    return found


def gone(p: psutil.Process) -> bool:
    try: return p.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess: return True


@pytest.mark.parametrize('workflow,params,says', [('train', {'tokns': 8}, "Did you mean 'tokens'"), ('train', {'tokens': 'many', 'steps': 0}, 'steps'), ('train', {'tau; import os': 1}, 'no name'), ('train', {'run': '/tmp/x'}, 'chosen already'),
                                                  ('trian', {}, 'train_generator'), ('evaluate', {}, 'holds no run'), ('train', {'codebooks': 5, 'tokens': 48}, 'codebooks=5')])
def test_nothing_starts_with_wrong_parameters(tmp_path, workflow, params, says):
    with pytest.raises(ConfigError, match=says): start(workflow, tmp_path/'a', params)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_not_trained_over(trained):
    before = (trained/'tokenizer'/'config.json').read_text()
    with pytest.raises(ConfigError, match='already holds a run'): start('train', trained/'tokenizer', {})
    assert (trained/'tokenizer'/'config.json').read_text() == before and not (trained/'tokenizer'/'jobs').exists()


def test_a_measurement_is_done_and_found_by_whoever_looks(trained):
    job = start('evaluate', trained/'tokenizer', {'seed': 3})
    assert job.state == 'running' and [j.workflow for j in jobs(trained)] == ['evaluate']
    with pytest.raises(ConfigError, match='at work already'): start('latent_map', trained/'tokenizer', {})
    wait_for(lambda: job.state != 'running', 200, job.tail)
    assert job.state == 'done', job.tail(40)
    again = Job(Run(trained/'tokenizer'), 'evaluate')
    assert again.progress[0] == again.progress[1] > 0 and again.progress[2] == 'cells' and again.info['params'] == {'seed': 3}
    assert 'reconstruction' in figures(again.run) and not cancel(again)


def test_stopping_a_training_saves_it_and_leaves_no_process(tmp_path):
    job = start('train', tmp_path/'a', LONG)
    wait_for(lambda: job.progress[2] == 'steps' and job.progress[0] > 3, 200, job.tail)
    ours = family(job.process)
    assert len(ours) >= 2 and os.getpgid(ours[-1].pid) != os.getpgid(0)
    assert cancel(job) and all(gone(p) for p in ours)
    assert job.state == 'stopped' and job.run.status['state'] == 'preempted' and steps_of(job.run.checkpoints)
    with pytest.raises(ConfigError, match='resume'): start('train', tmp_path/'a', LONG)


@pytest.mark.slow
def test_stopping_two_ranks_leaves_no_process(tmp_path):
    job = start('train', tmp_path/'a', {**LONG, 'processes': 2})
    wait_for(lambda: job.progress[2] == 'steps' and job.progress[0] > 3, 200, job.tail)
    ours = family(job.process)
    assert len(ours) >= 5  # papermill, kernel, launcher, two ranks
    assert cancel(job) and all(gone(p) for p in ours) and steps_of(job.run.checkpoints)


def test_a_training_that_was_killed_is_told_as_killed(tmp_path):
    job = start('train', tmp_path/'a', LONG)
    ours = wait_for(lambda: len(f := family(job.process)) >= 2 and f, 100, job.tail)
    for p in ours: p.kill()
    wait_for(lambda: all(gone(p) for p in ours), 10, 'they live')
    assert job.state == 'killed' and job.process is None and [j.state for j in jobs(tmp_path)] == ['killed']


def test_a_foreign_job_file_makes_nobody_kill_a_stranger(tmp_path):
    stranger = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
    try:
        job = Job(Run(tmp_path/'a'), 'train')
        write_json(job.file, {'workflow': 'train', 'begun': '2026-01-01T00:00:00+00:00', **identify(stranger.pid)})
        assert job.process is None and not cancel(job) and stranger.poll() is None
        for content in ('', '[]', '{"pid": "x"}', '{"pid": 1}', '\0'):
            job.file.write_text(content)
            assert job.state == 'killed' and job.progress == (0, 0, 'cells') and not cancel(job) and len(jobs(tmp_path)) == 1
    finally: stranger.kill(), stranger.wait()



def test_the_command_line(root, tmp_path, capsys, monkeypatch):
    import explorer
    (tmp_path/'users').write_text('ann:secret-1\nbob:secret-2:x\n')
    options = explorer.options
    monkeypatch.delenv('EXPLORER_AUTH', raising=False)
    assert (options([]).host, options([]).port, options([]).auth, options([]).share) == ('127.0.0.1', 7860, None, False)
    for host in ('localhost', '127.0.0.5', '::1', '[::1]'): assert options(['--host', host]).auth is None
    assert options(['--host', '0.0.0.0', '--auth', 'ann:secret']).auth == [('ann', 'secret')]
    assert options(['--share', '--auth', str(tmp_path/'users')]).auth == [('ann', 'secret-1'), ('bob', 'secret-2:x')]
    monkeypatch.setenv('EXPLORER_AUTH', 'eve:from-the-environment')
    assert options(['--host', '0.0.0.0']).auth == [('eve', 'from-the-environment')] and 'EXPLORER_AUTH' not in os.environ  # no job inherits it
    for wrong, says in [(['--host', '0.0.0.0'], 'lets other machines in'), (['--host', 'example.org'], 'needs --auth'), (['--host', ''], 'needs --auth'), (['--share'], 'public'), (['--auth', 'secret'], 'neither'), (['--auth', 'ann:'], 'a user and a password'), (['--port', '70000'], 'ports'), (['--port', 'x'], 'invalid int')]:
        with pytest.raises(SystemExit) as e: options(wrong)
        told = capsys.readouterr().err
        assert e.value.code == 2 and says in told and 'secret' not in told.replace('secret-file', ''), told
