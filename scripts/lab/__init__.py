"""What made and measures the model in the box: scenes, training, judge, evaluation, benchmark."""
