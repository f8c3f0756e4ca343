"""A SLURM of one host: the commands that submitit calls, as small shell scripts."""

from __future__ import annotations

from pathlib import Path

_START = """
export SLURM_JOB_ID=$id SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1 SLURM_JOB_NODELIST=host
(
  echo RUNNING > $jobs/$id.state
  setsid bash $jobs/$id.sh >> $jobs/$id.out 2>&1
  [ -e $jobs/$id.cancelled ] && echo CANCELLED > $jobs/$id.state && exit
  if [ -e $jobs/$id.requeue ]; then rm $jobs/$id.requeue; scontrol again $id; exit; fi
  [ -e $jobs/$id.fate ] && mv $jobs/$id.fate $jobs/$id.state && exit
  echo COMPLETED > $jobs/$id.state
) > /dev/null 2>&1 &
"""

_SCRIPTS = {
    "sbatch": """
id=$(( $(ls $jobs/*.sh 2>/dev/null | wc -l) + 1 ))
cp "$1" $jobs/$id.sh
echo "Submitted batch job $id"
"""
    + _START,
    # The options that submitit gives take a value each, but for the flag.
    "srun": """
while [ "${1#--}" != "$1" ]; do
  case $1 in --unbuffered) shift ;; *) shift 2 ;; esac
done
echo $$ > $jobs/$SLURM_JOB_ID.pid
exec "$@"
""",
    "sacct": """
echo "JobID|State|NodeList"
for file in $jobs/*.state; do
  echo "$(basename $file .state)|$(cat $file)|host"
done
""",
    "scancel": """
id=$1
touch $jobs/$id.cancelled
kill -9 $(cat $jobs/$id.pid)
""",
    "scontrol": """
id=$2
if [ $1 = requeue ]; then touch $jobs/$id.requeue; exit; fi
"""
    + _START,
}


def install(folder: Path) -> Path:
    """Write the commands to ``folder/bin``, which belongs on the PATH; returns it.

    A job's script, output, state and process id lie in ``folder/jobs``; it ends in the state that a
    file ``ID.fate`` there names, else as COMPLETED.
    """
    jobs = folder / "jobs"
    jobs.mkdir(parents=True)
    (folder / "bin").mkdir()
    for name, text in _SCRIPTS.items():
        script = folder / "bin" / name
        script.write_text(f"#!/bin/bash\njobs={jobs}\n{text}")
        script.chmod(0o755)
    return folder / "bin"
