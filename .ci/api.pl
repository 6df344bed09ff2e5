#!/usr/bin/env perl
# Prints the public API: a line for each item, method, field, variant and implementation of a trait.
#
#     .ci/api.pl FOLDER    the folder of the crate's pages, which `cargo doc` has written
#
# It reads the HTML, because rustdoc's JSON is unstable and its readers take long to build. Items of
# other crates that this crate exports have one line each.

use strict;
use warnings;
use utf8;
use open qw(:std :encoding(UTF-8));

my $folder = shift or die "usage: .ci/api.pl FOLDER\n";
my %lines;

# The signature of what begins before, and the type of a field.
my $signature = qr{.*?<h[34] class="code-header">(.*?)</h[34]>}s;
my $type = qr{.*?<code>(.*?)</code>}s;

sub page {
    open my $file, '<', "$folder/$_[0]" or die "$folder/$_[0]: $!\n";
    local $/;
    return <$file>;
}

# The text of a piece of HTML, on one line.
sub text {
    my ($html) = @_;
    $html =~ s/ⓘ//g;
    $html =~ s{<div class="where">|</div>}{ }g;
    $html =~ s/<[^>]*>//g;
    $html =~ s/&lt;/</g;
    $html =~ s/&gt;/>/g;
    $html =~ s/&quot;/"/g;
    $html =~ s/&#(?:39|x27);/'/g;
    $html =~ s/&nbsp;|\x{a0}/ /g;
    $html =~ s/&amp;/&/g;
    # A long list of parameters has one on each line.
    $html =~ s/\(\s+/(/g;
    $html =~ s/,\s+\)/)/g;
    $html =~ s/\s+/ /g;
    $html =~ s/^ |[ ,;]+$//g;
    return $html;
}

sub add {
    my ($path, $html) = @_;
    $lines{"$path: " . text($html)} = 1;
}

sub add_item {
    my ($path, $kind, $html) = @_;
    # The first link to source text is that of the item itself.
    my ($source) = $html =~ m{<a class="src[^"]*" href="([^"]*)"}
        or die "$path has no source\n";
    if ($source !~ m{^[./]*src/rtcbot_websocket/}) {
        add($path, "$kind of another crate");
        return;
    }
    my ($declaration) = $html =~ m{<pre class="rust item-decl"><code>(.*?)</code></pre>}s
        or die "$path has no declaration\n";
    # What is between the braces has lines of its own.
    $declaration =~ s/\s*\{.*//s unless $kind =~ /^(?:fn|type)$/;
    add($path, $declaration);
    return if $kind eq 'type';
    # The methods that a type derefs to, and those of its traits, are documented elsewhere.
    for (split /(?=<h2 id=")/, $html) {
        my ($section) = /^<h2 id="([a-z-]+)/ or next;
        if ($section =~ /^(?:implementations|(?:required|provided)-methods)$/) {
            my $body = $section eq 'provided-methods' ? ' { ... }' : '';
            add("$path\::$1", $2 . $body)
                while m{<section id="(?:ty)?method\.([^"]*)"$signature}g;
        } elsif ($section =~ /^(?:fields|variants)$/) {
            add("$path\::$1", $2)
                while m{<section id="variant\.([^"]*)"$signature}g;
            add("$path\::$1", $2)
                while m{<span id="structfield\.([^"]*)"$type}g;
            add("$path\::$1\::$2", $3)
                while m{<span id="variant\.([^".]*)\.field\.([^"]*)"$type}g;
        }
        if ($section =~ /^(?:implementations|trait-implementations|foreign-impls)$/) {
            $1 =~ /StructuralPartialEq/ or add($path, $1)
                while m{<section id="impl-[^"]*"$signature}g;
            add("$path\::$1", $2)
                while m{<section id="associatedtype\.(\w+)[^"]*"$signature}g;
        }
    }
}

my %modules = ('' => 1);
my $all = page('all.html');
while ($all =~ m{<a href="((?:[a-z_]+/)*)([a-z]+)\.(\w+)\.html">([^<]*)</a>}g) {
    $modules{$1} = 1;
    add_item($4, $2, page("$1$2.$3.html"));
}
for my $module (keys %modules) {
    my $html = page("${module}index.html");
    (my $path = $module) =~ s{/}{::}g;
    add("$path$1", $2) while $html =~ m{id="reexport\.(\w+)"[^>]*><code>(.*?)</code>}sg;
}
print "$_\n" for sort keys %lines;
