"""A training script with the entry points of timm's, and no more of it: what ``timm-gcp wrap`` takes hold of.

It prints the method of the model and of its average at the start of every epoch and at every update.
"""

import argparse
import functools

import torch
from timm import utils
from timm.data import create_dataset, create_loader
from timm.models import create_model, resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2, scheduler_kwargs

parser = argparse.ArgumentParser(description="Miniature")
parser.add_argument("--data-dir")
parser.add_argument("--model")
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--sched", default="cosine")
parser.add_argument("--decay-epochs", type=float)
parser.add_argument("--sched-on-updates", action="store_true")
parser.add_argument("--lr", type=float, default=0.05)
parser.add_argument("--min-lr", type=float, default=0.0)
parser.add_argument("--warmup-epochs", type=int, default=0)
parser.add_argument("--patience-epochs", type=int, default=0)
parser.add_argument("--grad-accum-steps", type=int, default=1)
parser.add_argument("--model-ema", action="store_true")
parser.add_argument("--resume", default="")
parser.add_argument("--start-epoch", type=int)
parser.add_argument("--stop-epoch", type=int)
parser.add_argument("--output", default=".")
parser.add_argument("--device", default="cpu")
parser.add_argument("--checkpoint-hist", type=int, default=10)
parser.add_argument("--metrics", type=float, nargs="+", default=[1.0, 2.0, 3.0, 4.0])


def methods(*modules):
    return " ".join(module.global_pool.method for module in modules if module is not None)


def main():
    utils.setup_default_logging()
    args = parser.parse_args()
    utils.init_distributed_device(args)
    utils.random_seed(0)
    model = create_model(args.model, num_classes=3)
    loader = create_loader(
        create_dataset("", args.data_dir, split="train", is_training=True),
        input_size=(3, 64, 64),
        batch_size=8,
        is_training=True,
        use_prefetcher=False,
        num_workers=0,
    )
    optimizer = create_optimizer_v2(model, opt="sgd", lr=args.lr)
    resumed = resume_checkpoint(model, args.resume, optimizer) if args.resume else None
    average = utils.ModelEmaV3(model, decay=0.9) if args.model_ema else None
    trained = torch.nn.parallel.DistributedDataParallel(model) if args.distributed else model
    updates = -(-len(loader) // args.grad_accum_steps)
    saver = utils.CheckpointSaver(
        model,
        optimizer,
        args=args,
        model_ema=average and average.module,
        checkpoint_dir=args.output,
        recovery_dir=args.output,
        max_history=args.checkpoint_hist,
    )
    scheduler, epochs = create_scheduler_v2(optimizer, **scheduler_kwargs(args), updates_per_epoch=updates)
    start = args.start_epoch if args.start_epoch is not None else resumed or 0
    if scheduler is not None and start > 0:
        if args.sched_on_updates:
            scheduler.step_update(start * updates)
        else:
            scheduler.step(start)
    # In one piece: the lines of two processes must not run into each other.
    say = functools.partial(print, end="", flush=True)
    for epoch in range(start, epochs):
        if epoch == args.stop_epoch:
            break
        say(f"epoch {epoch}: {methods(model, average and average.module)}\n")
        trained.train()
        done = epoch * updates
        for i, (images, target) in enumerate(loader):
            loss = torch.nn.functional.cross_entropy(trained(images), target)
            (loss / args.grad_accum_steps).backward()
            if (i + 1) % args.grad_accum_steps and i + 1 < len(loader):
                continue
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            if average is not None:
                average.update(model, step=done)
            scheduler.step_update(num_updates=done, metric=loss.item())
            say(f"update {done}: {methods(model)}\n")
        say(f"evaluates epoch {epoch}: {methods(model, average and average.module)}\n")
        if utils.is_primary(args):
            best = saver.save_checkpoint(epoch, metric=args.metrics[epoch])
            say(f"best: {best[1]}\n")
        scheduler.step(epoch + 1, args.metrics[epoch])
    if args.distributed:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
